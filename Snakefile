# The pipeline, in the order it runs. A suite says what is run: snakemake --configfile <suite file>.
include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"


if suite.weights == "trained":

    include: "workflow/rules/train.smk"


if study.released:

    include: "workflow/rules/released.smk"


include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        report_files(),
        # Reports are in git: one that came with a clone must not stand for results of this machine.
        sweeps(),
