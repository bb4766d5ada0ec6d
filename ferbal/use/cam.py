"""Where in a picture a network finds its evidence for a class: Grad-CAM.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV),
arXiv:1610.02391.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferbal.errors import DataError
from ferbal.shapes import Float, Int, UInt8
from ferbal.use.model import Net, with_channels


def grad_cam(
    net: Net, images: UInt8[np.ndarray, "n c h w"], classes: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n h2 w2"]:
    """Evidence for one class in each image, by place on the network's last feature map: 0..1, the strongest place 1.

    It is ReLU(sum_k a_k A_k) over the channels A_k of that map, a_k being the mean over it of the gradient of the
    class's logit, before any correction. classes: of the model; -1, or one that the network does not know, has a map
    of zeros, as has an image in which nothing speaks for its class. Raises DataError where the last features are no
    map of places.
    """
    inner = np.where(classes >= 0, net.becomes[classes], -1)
    network: Any = net.network.eval()
    batch = torch.from_numpy(np.ascontiguousarray(with_channels(images, net.channels))).to(net.machine.device)
    with torch.no_grad():
        features = _features(net, net.view.plain(batch).contiguous(memory_format=torch.channels_last))
    with torch.enable_grad():
        features.requires_grad_()
        # a copy: some heads begin with an operation in place, which a leaf forbids
        logits = network.forward_head(features.clone())
        asked = torch.from_numpy(inner).clamp_min(0).to(logits.device)
        (slopes,) = torch.autograd.grad(logits.gather(1, asked[:, None]).sum(), features)
    channels, places = (3, (1, 2)) if _channels_last(network) else (1, (2, 3))
    weights = slopes.mean(places, keepdim=True)
    evidence = (weights * features.detach()).sum(channels).relu().double().cpu().numpy()
    evidence[inner < 0] = 0
    highest = evidence.max((1, 2), keepdims=True)
    return np.divide(evidence, highest, out=np.zeros_like(evidence), where=highest > 0)


def _features(net: Net, pixels: Tensor) -> Tensor:
    """The network's last features, four-dimensional."""
    network: Any = net.network
    if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
        raise DataError(f"{net.backbone} does not tell its features apart from its classifier")
    features = network.forward_features(pixels)
    if not isinstance(features, Tensor) or features.ndim != 4:
        raise DataError(f"the last features of {net.backbone} are tokens, not a map of places")
    if features[0].numel() == features.shape[3 if _channels_last(network) else 1]:
        raise DataError(
            f"the last feature map of {net.backbone} is a single place at {net.view.size} px; "
            "a larger training.image_size gives a map"
        )
    return features


def _channels_last(network: Any) -> bool:
    """Whether features are [n, h, w, f], as those of Swin are; else [n, f, h, w]."""
    return str(getattr(network, "output_fmt", "NCHW")) == "NHWC"
