# Raw images -> packed store with a manifest.
rule prepare:
    output:
        "data/prepared/{dataset}/manifest.json",
    log:
        "results/logs/prepare-{dataset}.log",
    benchmark:
        "results/benchmarks/prepare-{dataset}.tsv"
    params:
        fingerprint=dataset_fingerprint,
    shell:
        "pcsr prepare {wildcards.dataset:q} --log {log:q}"
