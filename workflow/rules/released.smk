# Weights published by the papers' authors, instead of training.
rule released:
    output:
        "results/{suite}/{experiment}/released/weights.safetensors",
    log:
        "results/{suite}/logs/released-{experiment}.log",
    benchmark:
        "results/{suite}/benchmarks/released-{experiment}.tsv"
    params:
        fingerprint=released_fingerprint,
    shell:
        "pcsr fetch-released {wildcards.experiment:q} --out {output:q} --log {log:q}"
