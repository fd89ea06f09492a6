"""What each picture of the gallery says to a reader who has not seen its caption, written by one who looked at it.

Of the committed pictures: look again where one is drawn anew.
"""

from collections.abc import Mapping

SENTENCES: Mapping[str, str] = {
    "figure_1_alignments": (
        "α is full in every network from the first step on, ω is none on hidden layers and a little above on "
        "readouts, u climbs from none to full within tens of steps, and the total is none on hidden layers."
    ),
    "figure_2_adam": (
        "Only with the rates of full alignment are the minima of all widths above one another, in SP as in muP; one "
        "raw rate has to fall by a factor of four to six from width 64 to 512, and prior's has to rise."
    ),
    "figure_2_sgd": (
        "SGD's minima are noisy: those of muP stay put, one raw rate moves left in SP and far to the right in MFP, "
        "and a rate a few times too large diverges."
    ),
    "figure_2_adafactor": (
        "muP's minima stay put with a raw rate and without alignment; those of full move a little to the right, those"
        " of SP prior much more, and losses rise steeply just to the right of them."
    ),
    "figure_3_loss_by_width": (
        "At their best rates SP and muP reach one loss with Adam, SP a slightly lower one with Adafactor; one raw "
        "rate falls behind ever more, by 0.12 nats in SP with Adam; SGD's intervals tell little apart."
    ),
    "figure_4_rate_by_width": (
        "For Adam the best rate is flat under full alignment alone; for SGD and Adafactor it rises slowly there; one "
        "raw rate goes up or down with the width, as the parameterization has it."
    ),
    "figure_5_gradients": (
        "At initialisation every gradient falls along its predicted line; after 150 steps gradients have left it to "
        "either side, faster than predicted in SP, slower in muP."
    ),
    "figure_6_epsilon_loss": (
        "A constant ε costs more the wider the network, most in MFP; the same ε scaled per layer costs the same at "
        "every width, and it is felt long before gradients meet it."
    ),
    "figure_6_epsilon_updates": (
        "A constant ε leaves ever less of Adam's update as networks widen, least in embeddings and in MFP; scaled per"
        " layer it leaves nearly the same, but for SP's and NTK's embedding."
    ),
    "figure_6_epsilon_loss_bfloat16": (
        "In bfloat16 too a constant ε costs more the wider the network, and scaled per layer the same at every width."
    ),
    "figure_7_coordinate_check": (
        "With one rate the changes of hidden layers and of the readout grow with the width at every step; with per-"
        "layer rates they are flat, in SP as in muP."
    ),
    "figure_8_equivalence": (
        "SP and NTK have one loss curve, and so have muP and MFP: to the last bit where the ratio of widths is 1, 4 "
        "or 16, and otherwise from rounding that training carries from 1e-7 to 1e-2 in 200 steps."
    ),
    "figure_9_sp": (
        "Left of the prescribed rate features blow up and right of it they freeze; measured alignments place all 81 "
        "points right, those of full alignment at infinite width only the unstable side."
    ),
    "figure_9_sp_frozen": (
        "With the embedding held back, the borders of features are where both predictions have them; those of logits "
        "only measured alignments get nearly right."
    ),
    "figure_9_mup": (
        "In muP too features learn in one column, at the prescribed rate, and measured alignments place all of them "
        "and 77 of 81 logits right."
    ),
    "figure_9_agreement": (
        "Powers predicted at infinite width are too extreme; from measured alignments, at these widths, they lie on "
        "the diagonal, but for growth beyond n^0.6, which ten steps have saturated."
    ),
    "figure_10_transfer": (
        "On an H100 the best rate of full alignment stays near 0.01 from width 128 to 1024, while one raw rate has to"
        " fall, eightfold in SP, and then still ends 0.06 to 0.11 nats higher."
    ),
    "figure_11_horizons": (
        "Full alignment is ahead of none at nearly every horizon of the MLP, the more the wider; in the transformer, "
        "and in most of the longer runs, intervals cannot tell them apart."
    ),
    "figure_12_other_axes": (
        "Along depth Adam's best base rate stays put where branches are divided by N, and where by its root drifts a "
        "little up as prescribed and down with one raw rate; along the batch Adam's rule holds it, and for SGD it is "
        "the raw rate that stays put."
    ),
    "figure_13_epsilon_rates": (
        "The two largest epsilons cost loss at every rate and move the best rate up; over the widths shown a constant "
        "one is hardly dearer than one scaled per layer, and below 1e-4 all rows are alike."
    ),
}
