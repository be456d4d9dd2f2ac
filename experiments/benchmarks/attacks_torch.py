"""The rivals of `attacks` in PyTorch: its authors' AutoAttack, and PGD and APGD of torchattacks.

A program of its own, for an environment of its own (`make bench` makes it): it reads the weights of
a small network and its examples, and prints one JSON object per norm, with the accuracy that each
attack leaves and the seconds it took.

    python attacks_torch.py FILE.npz
"""

import json
import sys
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]


class Network(torch.nn.Module):
    """One convolution and two dense layers, of images with values first by row and then channel."""

    def __init__(self, arrays):
        """From the weights of JAX: kernels by height, width, in, out; matrices by in, out."""
        super().__init__()
        tensors = {name: torch.tensor(value) for name, value in arrays.items()}
        self.kernel = tensors["kernel0"].permute(3, 2, 0, 1).contiguous()
        self.bias = tensors["bias0"]
        self.hidden, self.hidden_bias = tensors["hidden"], tensors["hidden_bias"]
        self.last, self.last_bias = tensors["last"], tensors["last_bias"]

    def forward(self, images):
        """``(B, 1, height, width)`` to scores."""
        x = torch.nn.functional.conv2d(images, self.kernel, self.bias, stride=2).relu()
        x = x.permute(0, 2, 3, 1).flatten(1)
        return (x @ self.hidden + self.hidden_bias).relu() @ self.last + self.last_bias


def rivals(model, norm, eps, steps):
    """What takes images and labels, and returns adversarial images, by name."""

    def auto(images, labels):
        from pyautoattack import AutoAttack  # pyright: ignore[reportMissingImports]

        attack = AutoAttack(model, norm=norm, eps=eps, version="standard", seed=0)
        return attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]

    def apgd(images, labels):
        import torchattacks  # pyright: ignore[reportMissingImports]

        return torchattacks.APGD(model, norm=norm, eps=eps, steps=steps)(images, labels)

    def pgd(images, labels):
        import torchattacks  # pyright: ignore[reportMissingImports]

        if norm == "Linf":
            attack = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / steps, steps=steps)
        else:
            attack = torchattacks.PGDL2(model, eps=eps, alpha=2.5 * eps / steps, steps=steps)
        return attack(images, labels)

    return {"autoattack": auto, "apgd": apgd, "pgd": pgd}


def main():
    """Prints what was found, or why it could not be."""
    arrays = dict(np.load(sys.argv[1]))
    images = torch.tensor(arrays.pop("images")).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(arrays.pop("labels")).long()
    radii = {"Linf": float(arrays.pop("linf")), "L2": float(arrays.pop("l2"))}
    steps = int(arrays.pop("steps"))
    scores = torch.tensor(arrays.pop("scores"))
    model = Network(arrays).eval()
    with torch.no_grad():
        off = (model(images) - scores).abs().max().item()
    for norm, eps in radii.items():
        found = {"norm": norm, "torch": torch.__version__, "threads": torch.get_num_threads()}
        found["off"] = off
        for name, attack in rivals(model, norm, eps, steps).items():
            try:
                torch.manual_seed(0)
                begin = time.perf_counter()
                adversarial = attack(images, labels)
                seconds = time.perf_counter() - begin
                with torch.no_grad():
                    right = model(adversarial).argmax(1) == labels
                found[name] = [right.double().mean().item(), seconds]
            except Exception as error:  # a rival that cannot do it is a result
                found[name] = f"{type(error).__name__}: {error}"[:200]
        print("FOUND " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
