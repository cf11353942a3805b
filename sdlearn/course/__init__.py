"""What a learner touches besides the reference modules: figures and widgets."""
