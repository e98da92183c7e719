"""What a training job needs of a GPU's memory, told before its first step.

`estimate` turns a model's shape and a configuration into bytes; `capacity` says what there is;
`advice` finds the key to turn. docs/memory.md: what is counted, and how well it agrees.
"""
