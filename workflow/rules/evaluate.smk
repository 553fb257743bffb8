# Every image and knob value of one experiment on one test set.
rule sweep:
    input:
        weights=last_weights,
        test_set=manifest("{test_set}"),
    output:
        "results/{suite}/{experiment}/{test_set}/sweep.csv",
    log:
        "results/{suite}/logs/sweep-{experiment}-{test_set}.log",
    benchmark:
        "results/{suite}/benchmarks/sweep-{experiment}-{test_set}.tsv"
    threads: suite.threads
    resources:
        gpu=ONE_GPU,
    params:
        images=test_images,
        device=DEVICE,
        knobs=knob_options,
        protocol=PROTOCOL_OPTIONS,
        also=ALSO_OPTIONS,
    shell:
        "pcsr sweep --weights {input.weights:q} --images {params.images:q} {params.knobs:q}"
        " {params.protocol:q} {params.also:q} --device {params.device:q} --threads {threads:q} --out {output:q} --log {log:q}"


# Alone on the machine, all cases in turns: only the ratios to the original are meaningful.
rule time:
    input:
        weights=[weights(experiment) for experiment in timed()],
        test_set=manifest(test_sets[0]),
    output:
        "results/{suite}/times.json",
    log:
        "results/{suite}/logs/time.log",
    benchmark:
        "results/{suite}/benchmarks/time.tsv"
    threads: CORES
    resources:
        gpu=ONE_GPU,
    params:
        images=Path(manifest(test_sets[0])).parent,
        device=DEVICE,
        knobs=suite.timed_knobs,
    shell:
        "pcsr bench --weights {input.weights:q} --images {params.images:q} --knob {params.knobs:q}"
        " --device {params.device:q} --threads {threads:q} --out {output:q} 2> {log:q}"
