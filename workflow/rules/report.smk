# CSV -> tables, figures, claims. All of these depend only on the sweeps, except the showcase,
# which runs the weights on one photograph.
rule collect:
    input:
        sweeps(),
    output:
        report(
            # What is in place is compared with, and stays where it agrees.
            update("reports/{suite}/results.csv"),
            caption="../report/results.rst",
            category="Data",
        ),
    log:
        "results/{suite}/logs/collect.log",
    benchmark:
        "results/{suite}/benchmarks/collect.tsv"
    shell:
        "pcsr collect --sweeps {input:q} --out {output:q} 2> {log:q}"


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
        others=multiext(
            "reports/{suite}/{test_set}/{backbone}-psnr-flops", ".svg", ".pdf"
        ),
    log:
        "results/{suite}/logs/figure-{test_set}-{backbone}.log",
    benchmark:
        "results/{suite}/benchmarks/figure-{test_set}-{backbone}.tsv"
    shell:
        "pcsr figure {input:q} --test-set {wildcards.test_set:q} --backbone {wildcards.backbone:q}"
        " --out {output.png:q} 2> {log:q}"


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
        "pcsr table {input:q} --out {output.html:q} 2> {log:q}"


rule claims:
    input:
        results="reports/{suite}/results.csv",
        published=str(files.find("configs/claims.yaml")),
        lines=sorted(map(str, files.find("configs/logs").glob("*.csv"))),
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
        "pcsr claims {input.results:q} --published {input.published:q} --out {output.md:q} 2> {log:q}"


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
        "pcsr inputs --suite={params.suite_file:q} --out {output.md:q} 2> {log:q}"


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
        "pcsr fairness {input:q} --out {output.md:q} 2> {log:q}"


rule summary:
    input:
        results="reports/{suite}/results.csv",
        times=times(),
    output:
        "results/{suite}/summary.txt",
    log:
        "results/{suite}/logs/summary.log",
    benchmark:
        "results/{suite}/benchmarks/summary.tsv"
    params:
        times=times_option,
    shell:
        "pcsr summary {input.results:q} {params.times:q} --out {output:q} 2> {log:q}"


rule leaderboard:
    input:
        results="reports/{suite}/results.csv",
        others=[*measured_by_others(".csv"), *measured_by_others(".json")],
    output:
        html=report(
            "reports/{suite}/leaderboard.html",
            caption="../report/leaderboard.rst",
            category="Tables",
            labels={"table": "leaderboard"},
        ),
        md="reports/{suite}/leaderboard.md",
        csv="reports/{suite}/leaderboard.csv",
    log:
        "results/{suite}/logs/leaderboard.log",
    benchmark:
        "results/{suite}/benchmarks/leaderboard.tsv"
    params:
        options=leaderboard_options,
    shell:
        "pcsr leaderboard {input.results:q} {params.options:q} --out {output.md:q} 2> {log:q}"


rule showcase:
    input:
        original=original_weights,
        method=last_weights,
        sweep="results/{suite}/{experiment}/{test_set}/sweep.csv",
        test_set=manifest("{test_set}"),
    output:
        routing=report(
            # An image in place that agrees stays, as results do.
            update("reports/{suite}/{test_set}/{experiment}-routing.png"),
            caption="../report/routing.rst",
            category="Images",
            labels={"experiment": "{experiment}", "image": "which pixel went where"},
        ),
        comparison=report(
            update("reports/{suite}/{test_set}/{experiment}-comparison.png"),
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
        "pcsr showcase --images {params.images:q} --weights {input.original:q} {input.method:q}"
        " --sweep {input.sweep:q}"
        " {params.options:q} --threads {threads:q} --routing {output.routing:q}"
        " --comparison {output.comparison:q} 2> {log:q}"


# The suite's answer in one offline page: all curves, and images with every value of the knob.
rule explorer:
    input:
        results="reports/{suite}/results.csv",
        weights=explored_weights(),
        test_set=manifest(test_sets[0]),
    output:
        "reports/{suite}/index.html",  # too large to be part of Snakemake's report
    log:
        "results/{suite}/logs/explorer.log",
    benchmark:
        "results/{suite}/benchmarks/explorer.tsv"
    threads: suite.threads
    resources:
        gpu=ONE_GPU,
    params:
        images=test_images,
        test_set=test_sets[0],
        title=suite.description or suite.suite,
        device=DEVICE,
        options=PROTOCOL_OPTIONS,
    shell:
        "pcsr explore {params.images:q} --weights {input.weights:q} --results {input.results:q}"
        " --test-set {params.test_set:q} --title={params.title:q} {params.options:q}"
        " --device {params.device:q} --threads {threads:q} --out {output:q} > {log:q} 2>&1"
