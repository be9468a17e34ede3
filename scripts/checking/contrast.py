"""Contrastive losses on embedded patches: hDCE and SRC of Hneg-SRC, PatchNCE of DCLGAN.

Shape legend: B images, N patches sampled per image, D embedding width.
"""

from torch import Tensor

from models.losses.hdce import hdce_loss
from models.losses.patch_nce import cosine_nce_loss
from models.losses.semantic_relation import semantic_relation_loss
from scripts.checking.agreement import Compared, loss_and_gradients
from scripts.checking.export import Export


def hdce(export: Export) -> list[Compared]:
    """Hneg-SRC's contrast: query_0, key_0 (B,N,D) of unit length, gamma, T; loss_decoupled, grad_query_0.

    loss_decoupled is the mean of logsumexp((negative - positive) / T), whose gradient the release takes; what it prints
    is another number. Keys, and the weights made from them, are detached.
    """
    query_BND, key_BND = read_patches(export)
    loss = hdce_loss(query_BND, key_BND, export.number("gamma"), export.number("T")).mean()
    return compare_query(export, loss, query_BND, name="loss_decoupled")


def src(export: Export) -> list[Compared]:
    """Hneg-SRC's relations: query_0, key_0 (B,N,D); loss, the divergence summed over an image's table, grad_query_0.

    Vectors are brought to unit length once more. The key is detached.
    """
    query_BND, key_BND = read_patches(export)
    loss = semantic_relation_loss(query_BND, key_BND).mean()
    return compare_query(export, loss, query_BND)


def dcl_nce(export: Export) -> list[Compared]:
    """DCLGAN's PatchNCE: query_0, key_0 (B,N,D) of any length, T; loss over all B*N keys, grad_query_0."""
    query_BND, key_BND = read_patches(export)
    loss = cosine_nce_loss(query_BND, key_BND, export.number("T")).mean()
    return compare_query(export, loss, query_BND)


def read_patches(export: Export) -> tuple[Tensor, Tensor]:
    """query_0, to be differentiated, and key_0, both (B,N,D); raises UserError where their shapes differ."""
    query_BND, key_BND = export.learning("query_0", axes=3), export.tensor("key_0", axes=3)
    if query_BND.shape != key_BND.shape:
        shapes = f"{tuple(query_BND.shape)} and {tuple(key_BND.shape)}"
        raise export.unusable(f"query_0 and key_0 have unlike shapes, {shapes}")
    return query_BND, key_BND.double()


def compare_query(
    export: Export, loss: Tensor, query_BND: Tensor, name: str = "loss"
) -> list[Compared]:
    """A loss (0-d), which the export calls `name`, and its gradient of the queries."""
    loss.backward()
    wanted = export.tensor(name).double()
    return loss_and_gradients(loss, wanted, [(query_BND.grad, export.tensor("grad_query_0"))])
