# One job per training stage. The resumable state beside the weights is not declared as an output,
# because a declared output is deleted when the job fails.
rule train:
    input:
        train_set=manifest(suite.train_set),
        # Weights do not depend on the validation set, so a newer one retrains nothing.
        valid_set=ancient(manifest(suite.valid_set)),
        init=stage_before,
        calibration=classes_of_crops,
    output:
        "results/{suite}/{experiment}/{stage}/weights.safetensors",
    log:
        "results/{suite}/logs/train-{experiment}-{stage}.log",
    benchmark:
        "results/{suite}/benchmarks/train-{experiment}-{stage}.tsv"
    threads: suite.threads
    resources:
        gpu=suite.gpus,
    params:
        suite_file=SUITE_FILE,
        init=init_option,
        calibration=calibration_option,
        device=DEVICE,
        fingerprint=stage_fingerprint,
    shell:
        "pcsr train {wildcards.experiment:q} {wildcards.stage:q} --suite={params.suite_file:q}"
        " {params.init:q} {params.calibration:q} --device {params.device:q}"
        # If the suite asks for more than there are, as many as there are.
        " --processes {resources.gpu:q} --out {output:q} --log {log:q}"


# Training crops -> classes of equal size, by the PSNR that a trained model gives them.
rule classify_crops:
    input:
        weights=measuring_weights,
        train_set=manifest(suite.train_set),
    output:
        "results/{suite}/calibration/classes.safetensors",
    log:
        "results/{suite}/logs/classify-crops.log",
    benchmark:
        "results/{suite}/benchmarks/classify-crops.tsv"
    threads: suite.threads
    resources:
        gpu=ONE_GPU,
    params:
        data=train_images,
        options=calibration_options,
        device=DEVICE,
    shell:
        "pcsr classify-crops --weights {input.weights:q} --data {params.data:q} {params.options:q}"
        " --device {params.device:q} --threads {threads:q} --out {output:q} --log {log:q}"


# The table of a method that routes by one, from all validation images.
rule tabulate:
    input:
        weights=trained_weights,
        valid_set=manifest(suite.valid_set),
    output:
        "results/{suite}/{experiment}/table/weights.safetensors",
    log:
        "results/{suite}/logs/tabulate-{experiment}.log",
    benchmark:
        "results/{suite}/benchmarks/tabulate-{experiment}.tsv"
    threads: suite.threads
    resources:
        gpu=ONE_GPU,
    params:
        images=valid_images,
        device=DEVICE,
    shell:
        "pcsr tabulate --weights {input.weights:q} --images {params.images:q}"
        " --device {params.device:q} --threads {threads:q} --out {output:q} --log {log:q}"
