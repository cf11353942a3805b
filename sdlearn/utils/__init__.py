"""What the layers above share: checks of input, files, checkpoints, devices.

sampling           every number and choice that decides an image
sampling_checks    settings checked against a model and against the memory
memory             how much memory images need, and how much there is
pipeline_inputs    what a caller hands to the pipeline, checked and made into tensors
image_files        image files and any mode of Pillow, as upright RGB or grey
images             images between PIL and tensors
validation         numbers, choices and prompts, checked
noise              the noise of an image: from a seed, a tensor or a function
png_metadata       how an image was made, stored inside its PNG file
device             where a network runs, and in which precision
prepack            convolution weights laid out once for the CPU
checkpoint         checkpoints of a training run, whole or absent
checkpoint_states  what they hold: networks and optimizers, sharded ones whole
sharded_tensors    tensors of which each process holds a part
metrics_file       metrics.jsonl of a training run
sample_files       contact sheets of samples of a training run
run_limits         how long a run goes on, and how often it saves
run_lock           one training at a time in a folder
atomic_files       files that are whole or absent
part_files         temporary files, and those of processes that died
file_kinds         what a file really is, from its first bytes
resources          where the files that come with the package are
"""
