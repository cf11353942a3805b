"""Quiz of notebook 06, the U-Net."""

from sdlearn.course.grading.exercise import Answer, Question

QUESTIONS = (
    Question(
        "The timestep adds one value to each channel, and `norm2` follows. What would happen if "
        "`norm2` normalised every channel separately?",
        (
            Answer(
                "Nothing would change: a norm only scales.",
                False,
                "A norm also subtracts the mean of what it normalises, and here that mean would "
                "contain everything the timestep contributes.",
            ),
            Answer(
                "The block would ignore the timestep.",
                True,
                "A constant added to a whole channel shifts its mean and nothing else, and the "
                "norm subtracts it again. If a group has several channels, the differences between "
                "them remain.",
            ),
            Answer(
                "The timestep would matter more, because each channel has its own value.",
                False,
                "Each channel has its own value in any case. The question is whether it survives "
                "the norm.",
            ),
        ),
    ),
    Question(
        "Which twelve feature maps are the skips of Stable Diffusion 1.5?",
        (
            Answer(
                "Three for each of the four levels: the outputs of its three ResBlocks.",
                False,
                "In the downsampling path, a level has only two ResBlocks. The upsampling path has "
                "three per level.",
            ),
            Answer(
                "The outputs of all ResBlocks and transformers of the downsampling path.",
                False,
                "There are fourteen of those. Where a transformer follows a ResBlock, only the "
                "transformer's output is stored. On the other hand, the outputs of `conv_in` and "
                "of the three downsamplings are stored too.",
            ),
            Answer(
                "The output of `conv_in`, two outputs for each of the four levels, and those of "
                "the three downsamplings.",
                True,
                "The last level has no downsampling. Sorted by size, that makes three skips for "
                "each of the four sizes.",
            ),
        ),
    ),
    Question(
        "You double the height and width of the latent. What happens to the parameters of the "
        "U-Net, and to the MACs of its convolutions?",
        (
            Answer(
                "Both are multiplied by 4.",
                False,
                "A convolution applies the same weights at every position, so a larger map needs "
                "no new ones.",
            ),
            Answer(
                "The parameters stay the same, and the MACs are multiplied by 4.",
                True,
                "Every position takes the same MACs, and there are four times as many positions. "
                "The products inside self-attention grow faster, by a factor of 16.",
            ),
            Answer(
                "The parameters stay the same, and the MACs are multiplied by 2.",
                False,
                "Height and width both double, so there are four times as many positions.",
            ),
        ),
    ),
)
