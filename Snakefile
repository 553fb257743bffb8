# Where `snakemake` looks first; the workflow itself lies where Snakemake's catalogue looks.
include: "workflow/Snakefile"


workflow.default_target = "all"  # `include` keeps that of the file it is in
