# CSV -> tables, figures, claims. All of it is a function of the sweeps alone, but for the showcase,
# which runs one photograph through the weights.
REPORT = artefacts.report(suite.suite, "")
RESULTS = artefacts.report(suite.suite, "results.csv")
LOGS = f"results/{suite.suite}/logs"
BENCHMARKS = f"results/{suite.suite}/benchmarks"


rule collect:
    input:
        sweeps(),
    output:
        report(RESULTS, caption="../report/results.rst", category="Data"),
    log:
        f"{LOGS}/collect.log",
    benchmark:
        f"{BENCHMARKS}/collect.tsv"
    shell:
        "pcsr collect --sweeps {input} --out {output} 2> {log}"


rule figure:
    input:
        RESULTS,
    output:
        png=report(
            REPORT + "{test_set}/{backbone}-psnr-flops.png",
            caption="../report/psnr_flops.rst",
            category="PSNR-FLOP curves",
            labels={"test set": "{test_set}", "backbone": "{backbone}"},
        ),
        svg=REPORT + "{test_set}/{backbone}-psnr-flops.svg",
    log:
        LOGS + "/figure-{test_set}-{backbone}.log",
    benchmark:
        BENCHMARKS + "/figure-{test_set}-{backbone}.tsv"
    shell:
        "pcsr figure {input} --test-set {wildcards.test_set} --backbone {wildcards.backbone}"
        " --out {output.png} 2> {log}"


rule operating_points:
    input:
        RESULTS,
    output:
        html=report(
            REPORT + "operating_points.html",
            caption="../report/operating_points.rst",
            category="Tables",
            labels={"table": "operating points"},
        ),
        others=multiext(REPORT + "operating_points", ".md", ".tex", ".csv"),
    log:
        f"{LOGS}/operating_points.log",
    benchmark:
        f"{BENCHMARKS}/operating_points.tsv"
    shell:
        "pcsr table {input} --out {output.html} 2> {log}"


rule claims:
    input:
        RESULTS,
    output:
        html=report(
            REPORT + "claims.html",
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "published numbers and ours"},
        ),
        md=REPORT + "claims.md",
    log:
        f"{LOGS}/claims.log",
    benchmark:
        f"{BENCHMARKS}/claims.tsv"
    params:
        published="configs/claims.yaml",
    shell:
        "pcsr claims {input} --published {params.published} --out {output.md} 2> {log}"


rule showcase:
    input:
        original=original_of,
        method=last_weights,
        test_set=manifest("{test_set}"),
    output:
        routing=report(
            REPORT + "{test_set}/{experiment}-routing.png",
            caption="../report/routing.rst",
            category="Pictures",
            labels={"experiment": "{experiment}", "picture": "which pixel went where"},
        ),
        comparison=report(
            REPORT + "{test_set}/{experiment}-comparison.png",
            caption="../report/comparison.rst",
            category="Pictures",
            labels={"experiment": "{experiment}", "picture": "crops compared"},
        ),
    log:
        LOGS + "/showcase-{test_set}-{experiment}.log",
    benchmark:
        BENCHMARKS + "/showcase-{test_set}-{experiment}.tsv"
    threads: suite.threads
    params:
        images=test_pictures,
        options=f"--k {suite.showcase_knob:g} {PROTOCOL_OPTIONS}",
    shell:
        "pcsr showcase --images {params.images} --weights {input.original} {input.method}"
        " {params.options} --threads {threads} --routing {output.routing}"
        " --comparison {output.comparison} 2> {log}"
