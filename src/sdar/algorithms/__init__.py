"""The numbers of every method: pure functions on tensors.

Imports torch alone. A method is a declaration in `sdar.methods`; a trainer calls
`step.step_advantages` and `step.step_context` on a whole training step, then `loss.training_loss`
on each micro-batch, and needs no branch on the method.
"""
