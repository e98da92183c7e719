# The sweep: every variant of the configuration's `sweep` section trained, evaluated and compared
# with the baseline. Variants share the experiment's tasks and warm start.
rule train_variant:
    input:
        LAYOUT.tasks,
        starting_policy(),
    output:
        directory(PER_VARIANT / "policy"),
    log:
        f"{LOGS}/sweep/train/{{variant}}-{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/sweep/train-{{variant}}-{{seed}}.tsv"
    params:
        config=RESOLVED,
        depends_on=variant_depends_on("train"),
    threads: TRAINING_THREADS
    resources:
        **JOBS["train"],
    shell:
        "ranks sdar train --variant {wildcards.variant} --seed {wildcards.seed} "
        "--config {params.config} --root . 2>&1 | tee -i {log}"


rule evaluate_variant:
    input:
        LAYOUT.tasks,
        PER_VARIANT / "policy",
    output:
        [PER_VARIANT / "evaluation" / name for name in EVALUATION_FILES],
    log:
        f"{LOGS}/sweep/evaluate/{{variant}}-{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/sweep/evaluate-{{variant}}-{{seed}}.tsv"
    params:
        config=RESOLVED,
        depends_on=variant_depends_on("evaluate"),
    threads: CONFIG.execution.threads
    resources:
        **JOBS["evaluate"],
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar evaluate --variant {wildcards.variant} --seed {wildcards.seed} "
        "--config {params.config} --root . 2>&1 | tee -i {log}"


rule compare_sweep:
    input:
        sweep_evaluations,
    output:
        values=SWEEP_RESULTS / "sweep.json",
        table=report(
            SWEEP_RESULTS / "sweep.md",
            caption="../report/sweep.rst",
            category="Sweep",
        ),
        heatmap=report(
            SWEEP_RESULTS / "heatmap.svg",
            caption="../report/sweep.rst",
            category="Sweep",
        ),
        raster=SWEEP_RESULTS / "heatmap.png",
        tokens=report(
            SWEEP_RESULTS / "teacher_tokens.svg",
            caption="../report/teacher_tokens.rst",
            category="Sweep",
        ),
        tokens_raster=SWEEP_RESULTS / "teacher_tokens.png",
    log:
        f"{LOGS}/sweep/compare.log",
    benchmark:
        f"{BENCHMARKS}/sweep/compare.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("compare_sweep"),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar sweep compare --config {params.config} --root . 2>&1 | tee -i {log}"


rule sweep:
    input:
        rules.compare_sweep.output,
