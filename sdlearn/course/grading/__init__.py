"""How answers to exercises are graded.

exercise     what an exercise is, and the cells that a notebook shows of it
judge        compares an answer with the solution: right, or wrong and in which way
compare      describes in sentences how two results differ
sandbox      runs a learner's code and returns a result or a sentence, never raises
mutation     finds out whether code changes its inputs
invariants   checks that apply to every answer: inputs unchanged, no memory, float32, gradients

These describe a wrong answer that makes none of the known mistakes:

clues          runs the probes below in order and keeps the two most telling sentences
trials         the results of the answer and of the solution, as the probes need them
resemblance    how the values resemble the right ones
relations      a power, a factor, an offset
arrangement    another order, another shape, missing parts
reruns         further runs: one example alone, doubled inputs, a part taken out
substitutes    whether the solution gives the same results for other arguments
"""
