# The pipeline: games -> demonstrations -> warm start -> training -> evaluation -> comparison.
#   snakemake --profile profiles/local all
#   snakemake --profile profiles/local --configfile config/experiments/NAME.yaml -- all
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/warm_start.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        RESULTS,
