# CSV -> tables, figures, claims. All of it is a function of the sweeps alone, but for the showcase,
# which runs one photograph through the weights.
rule collect:
    input:
        sweeps(),
    output:
        report(
            "reports/{suite}/results.csv",
            caption="../report/results.rst",
            category="Data",
        ),
    log:
        "results/{suite}/logs/collect.log",
    benchmark:
        "results/{suite}/benchmarks/collect.tsv"
    shell:
        "pcsr collect --sweeps {input} --out {output} 2> {log}"


rule figure:
    input:
        "reports/{suite}/results.csv",
    output:
        png=report(
            "reports/{suite}/{test_set}/{backbone}-psnr-flops.png",
            caption="../report/psnr_flops.rst",
            category="PSNR-FLOP curves",
            labels={"test set": "{test_set}", "backbone": "{backbone}"},
        ),
        svg="reports/{suite}/{test_set}/{backbone}-psnr-flops.svg",
    log:
        "results/{suite}/logs/figure-{test_set}-{backbone}.log",
    benchmark:
        "results/{suite}/benchmarks/figure-{test_set}-{backbone}.tsv"
    shell:
        "pcsr figure {input} --test-set {wildcards.test_set} --backbone {wildcards.backbone}"
        " --out {output.png} 2> {log}"


rule operating_points:
    input:
        "reports/{suite}/results.csv",
    output:
        html=report(
            "reports/{suite}/operating_points.html",
            caption="../report/operating_points.rst",
            category="Tables",
            labels={"table": "operating points"},
        ),
        others=multiext("reports/{suite}/operating_points", ".md", ".tex", ".csv"),
    log:
        "results/{suite}/logs/operating_points.log",
    benchmark:
        "results/{suite}/benchmarks/operating_points.tsv"
    shell:
        "pcsr table {input} --out {output.html} 2> {log}"


rule claims:
    input:
        results="reports/{suite}/results.csv",
        published="configs/claims.yaml",
    output:
        html=report(
            "reports/{suite}/claims.html",
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "published numbers and ours"},
        ),
        md="reports/{suite}/claims.md",
    log:
        "results/{suite}/logs/claims.log",
    benchmark:
        "results/{suite}/benchmarks/claims.tsv"
    shell:
        "pcsr claims {input.results} --published {input.published} --out {output.md} 2> {log}"


rule inputs:
    input:
        weights=[weights(experiment) for experiment in experiments],
        test_sets=[manifest(test_set) for test_set in test_sets],
    output:
        html=report(
            "reports/{suite}/inputs.html",
            caption="../report/inputs.rst",
            category="Data",
            labels={"table": "weights and images"},
        ),
        md="reports/{suite}/inputs.md",
    log:
        "results/{suite}/logs/inputs.log",
    benchmark:
        "results/{suite}/benchmarks/inputs.tsv"
    params:
        suite_file=SUITE_FILE,
        absent=[present.absent_weights, present.absent_test_sets],
    shell:
        "pcsr inputs --suite {params.suite_file} --out {output.md} 2> {log}"


rule fairness:
    input:
        "reports/{suite}/results.csv",
    output:
        html=report(
            "reports/{suite}/fairness.html",
            caption="../report/fairness.rst",
            category="Tables",
            labels={"table": "fair comparisons"},
        ),
        md="reports/{suite}/fairness.md",
    log:
        "results/{suite}/logs/fairness.log",
    benchmark:
        "results/{suite}/benchmarks/fairness.tsv"
    shell:
        "pcsr fairness {input} --out {output.md} 2> {log}"


rule showcase:
    input:
        original=original_weights,
        method=last_weights,
        test_set=manifest("{test_set}"),
    output:
        routing=report(
            "reports/{suite}/{test_set}/{experiment}-routing.png",
            caption="../report/routing.rst",
            category="Images",
            labels={"experiment": "{experiment}", "image": "which pixel went where"},
        ),
        comparison=report(
            "reports/{suite}/{test_set}/{experiment}-comparison.png",
            caption="../report/comparison.rst",
            category="Images",
            labels={"experiment": "{experiment}", "image": "crops compared"},
        ),
    log:
        "results/{suite}/logs/showcase-{test_set}-{experiment}.log",
    benchmark:
        "results/{suite}/benchmarks/showcase-{test_set}-{experiment}.tsv"
    threads: suite.threads
    params:
        images=test_images,
        options=PROTOCOL_OPTIONS,
    shell:
        "pcsr showcase --images {params.images} --weights {input.original} {input.method}"
        " {params.options} --threads {threads} --routing {output.routing}"
        " --comparison {output.comparison} 2> {log}"
