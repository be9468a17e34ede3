"""SimDCL's head: its output, the similarity loss and the gradients of its weights."""

from models.losses.reconstruction import l1_distance
from models.networks.similarity_head import SimilarityHead
from scripts.checking.agreement import GRADIENT, LOSS, Compared
from scripts.checking.export import Export

FIRST_LAYER = "model.0."
# far from the loss, and of outputs 3e-7 long: a float32 export knows it less well
FIRST_GRADIENT = 1e-3


def simdcl_head(export: Export) -> list[Compared]:
    """x_0, x_1, ... (N,D), one per layer, weights w:<name>, other (K,).

    Compared: output (K,), loss = mean |output - other|, and for each weight its gradient g:<name>.
    """
    weights = export.tensors("w:")
    export.require(["x_0", "other", "output", "loss", *(f"g:{name}" for name in weights)])
    layers = len(export.tensors("x_"))
    patches = [export.tensor(f"x_{i}", axes=2).double()[None] for i in range(layers)]

    head = SimilarityHead(layers, len(export.tensor("other", axes=1))).double()
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise export.unusable(" ".join(str(error).split())) from None

    output_K = head(patches)[0]
    loss = l1_distance(output_K, export.tensor("other"))
    loss.backward()

    compared = [
        Compared("loss", loss, export.tensor("loss").reshape(()), LOSS),
        Compared("output", output_K, export.tensor("output")),
    ]
    for name, parameter in head.named_parameters():
        wanted = export.tensor(f"g:{name}")
        first = name.startswith(FIRST_LAYER)
        compared.append(
            Compared(
                "first_gradient" if first else "gradient",
                parameter.grad,
                wanted,
                FIRST_GRADIENT if first else GRADIENT,
            )
        )
    return compared
