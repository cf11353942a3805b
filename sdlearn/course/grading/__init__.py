"""How answers to exercises are graded.

exercise     what an exercise is, and the cells that a notebook shows of it
judge        an answer beside the solution: right, or wrong and in which way
compare      how two results differ, in sentences
sandbox      running a learner's code: a result or a sentence, never an exception
mutation     watching whether code changes its inputs
invariants   what holds for every answer: inputs unchanged, no memory, float32, gradients

What is said of a wrong answer that makes none of the known mistakes:

clues          the probes below in order, and the most telling of what they find
trials         the answer's results beside the solution's, as the probes need them
resemblance    how the values resemble the right ones
relations      a power, a factor, an offset
arrangement    another order, another shape, missing parts
reruns         what another run tells: one example alone, doubled inputs, tiny inputs
substitutes    whether the solution with other arguments gives the same
"""
