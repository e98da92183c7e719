# Reinforcement learning, one job per method and seed. Checkpoints and metrics lie beside the output,
# not in it: Snakemake deletes outputs before a rerun, and a rerun continues from them.
rule train:
    input:
        LAYOUT.tasks,
        starting_policy(),
    output:
        directory(PER_RUN / "policy"),
    log:
        f"{LOGS}/train/{{method}}-{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train-{{method}}-{{seed}}.tsv"
    params:
        config=RESOLVED,
        depends_on=depends_on("train"),
    threads: TRAINING_THREADS
    resources:
        **JOBS["train"],
    shell:
        "ranks sdar train --method {wildcards.method} --seed {wildcards.seed} "
        "--config {params.config} --root . 2>&1 | tee -i {log}"


rule policies:
    input:
        run_files(TRAINED_RUNS, "policy"),
