# Every task of each panel once per sampling seed, for the trained policies and the untrained ones.
rule evaluate:
    input:
        LAYOUT.tasks,
        policy_of,
    output:
        [PER_RUN / "evaluation" / name for name in EVALUATION_FILES],
    log:
        f"{LOGS}/evaluate/{{method}}-{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate-{{method}}-{{seed}}.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("evaluate"),
    threads: CONFIG.execution.threads
    resources:
        **JOBS["evaluate"],
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "sdar evaluate --method {wildcards.method} --seed {wildcards.seed} "
        "--config {params.config} --root . 2>&1 | tee -i {log}"


rule evaluations:
    input:
        [
            path / name
            for path in run_files(ALL_RUNS, "evaluation")
            for name in EVALUATION_FILES
        ],
