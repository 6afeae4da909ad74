"""Losses of the papers, as HybridBlocks. Letters: B batch, N anchors, K landmarks."""

from __future__ import annotations

from ._compat import mx

nn = mx.gluon.nn


class AnchorLoss(nn.HybridBlock):
    """Class, box and point losses of an anchor-based detector (RetinaFace eq. 3).

    Class is softmax cross-entropy with online hard example mining: all positive anchors and, per image, the
    ``negatives_per_positive`` times as many background anchors of highest loss. Box and points are smooth-L1 over the
    positive anchors. Each part is summed over an image and multiplied by the image's ``normaliser``.

    Parameters
    ----------
    box_weight, landmark_weight : float
        lambda 1 and 2 of eq. 3.
    negatives_per_positive : float
        The paper gives no ratio; 3 is that of SSD and of the light variant's sources.
    min_negatives : int
        Background anchors mined in an image of few or no faces.
    smooth_at : float
        Where smooth-L1 turns from a parabola into a line.
    """

    def __init__(
        self,
        box_weight: float = 1.0,
        landmark_weight: float = 1.0,
        negatives_per_positive: float = 3.0,
        min_negatives: int = 16,
        smooth_at: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.box_weight, self.landmark_weight = box_weight, landmark_weight
        self.negatives_per_positive, self.min_negatives = negatives_per_positive, min_negatives
        self.smooth_at = smooth_at

    def _smooth_l1(self, F, difference):
        # F.smooth_l1 turns at 1 / scalar^2 and is scaled so that the line has slope 1.
        return F.smooth_l1(difference, scalar=self.smooth_at**-0.5)

    def hybrid_forward(
        self,
        F,
        cls_preds,
        box_preds,
        landmark_preds,
        cls_targets,
        box_targets,
        landmark_targets,
        landmark_masks,
        normaliser,
    ):
        """Loss parts per image.

        Parameters
        ----------
        cls_preds : (B, N, 2)
        box_preds : (B, N, 4)
        landmark_preds : (B, N, 2K)
        cls_targets : (B, N)
            1 face, 0 background, -1 ignored.
        box_targets : (B, N, 4)
        landmark_targets : (B, N, 2K)
        landmark_masks : (B, N, 1)
        normaliser : (B,)
            Factor of each image's sums: images in the global batch / positive anchors in it, so that the mean over
            images is a mean over positive anchors, whatever the number of devices.

        Returns
        -------
        cls, box, landmark : (B,) each
        """
        positive = cls_targets == 1
        negative = cls_targets == 0
        losses = -F.pick(F.log_softmax(cls_preds, axis=-1), F.relu(cls_targets), axis=-1)
        # Rank of each background anchor's loss in its image, hardest 0; mining itself has no gradient.
        hardness = F.BlockGrad(F.where(negative, losses, F.ones_like(losses) * -1))
        rank = F.argsort(F.argsort(hardness, axis=1, is_ascend=False), axis=1)
        wanted = F.broadcast_maximum(
            F.sum(positive, axis=1, keepdims=True) * self.negatives_per_positive,
            F.ones_like(F.sum(positive, axis=1, keepdims=True)) * self.min_negatives,
        )
        chosen = positive + negative * F.broadcast_lesser(rank, wanted)
        cls = F.sum(losses * chosen, axis=1) * normaliser
        box = F.sum(F.broadcast_mul(self._smooth_l1(F, box_preds - box_targets), positive.expand_dims(-1)), axis=(1, 2))
        points = F.sum(
            F.broadcast_mul(self._smooth_l1(F, landmark_preds - landmark_targets), landmark_masks), axis=(1, 2)
        )
        return cls, box * normaliser * self.box_weight, points * normaliser * self.landmark_weight
