# One job per training stage. The resumable state beside the weights is not declared as an output,
# because a declared output is deleted when the job fails.
rule train:
    input:
        train_set=manifest(suite.train_set),
        # Weights do not depend on what they are validated on: a newer set trains nothing again.
        valid_set=ancient(manifest(suite.valid_set)),
        init=stage_before,
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
        device=DEVICE,
        fingerprint=stage_fingerprint,
    shell:
        "pcsr train {wildcards.experiment} {wildcards.stage} --suite {params.suite_file}"
        " {params.init} --device {params.device} --out {output} --log {log}"
