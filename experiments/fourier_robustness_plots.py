"""The figures of the experiment `fourier_robustness`."""

import numpy as np

from experiments import plots
from experiments.report import Result


def accuracies(result: Result):
    """Robust accuracy against the radius, a panel for each norm."""
    fractions, radii = np.asarray(result.series["fractions"]), result.series["radii"]
    found = result.series["accuracies"]
    figure, axes = plots.subplots(columns=len(radii), width=11, height=4.2, sharey=True)
    for ax, (norm, eps) in zip(axes, radii.items(), strict=True):
        for index, (network, row) in enumerate(found.items()):
            label = "trained plainly" if network == "plain" else f"against {network}"
            plots.line(ax, eps * fractions, 100 * np.asarray(row[norm]), label=label, index=index)
        ax.axvline(eps, color="0.5", linestyle=":", linewidth=1.2)
        ax.set_ylim(-3, 103)
        plots.describe(ax, title=f"{norm} perturbations", x="radius ε", y="")
    axes[0].set_ylabel("robust accuracy (%)")
    plots.direct_labels(axes[-1])
    return plots.finish(figure), (
        "Accuracy under attack of networks that were trained plainly, or against perturbations in "
        "one of the norms, at the radius of the dotted line."
    )


def bands(result: Result):
    """Robust accuracy by network and band."""
    found = result.series["bands"]
    columns = list(next(iter(found.values())))
    figure, ax = plots.subplots(width=6.5, height=3.4)
    values = np.asarray([[100 * row[c]["accuracy"] for c in columns] for row in found.values()])
    rows = ["plainly" if name == "plain" else f"against {name}" for name in found]
    plots.heat_table(ax, values, rows=rows, columns=columns, limits=(0, 100), digits=0)
    plots.describe(ax, title="Robust accuracy by band (%)", x="oscillations", y="trained")
    return plots.finish(figure), (
        "Accuracy under perturbations confined to a band of frequencies, of the same energy in "
        "each band."
    )


def perturbations(result: Result):
    """An image, and its worst perturbations by network and norm."""
    images, pictures = np.asarray(result.series["images"]), result.series["pictures"]
    norms = list(next(iter(pictures.values())))
    figure, axes = plots.subplots(
        rows=len(pictures), columns=1 + len(norms), width=8.5, height=2.1 * len(pictures)
    )
    for number, (row, (network, by)) in enumerate(zip(axes, pictures.items(), strict=True)):
        told = "trained plainly" if network == "plain" else f"against {network}"
        show(row[0], images[0])
        titles = ("image", *norms) if number == 0 else (" ",) * (1 + len(norms))
        plots.describe(row[0], title=titles[0], x="", y=told)
        for ax, norm, title in zip(row[1:], norms, titles[1:], strict=True):
            delta = np.asarray(by[norm]["shown"])[0]
            top = np.max(np.abs(delta)) or 1.0
            show(ax, 0.5 + delta / (2 * top))
            plots.describe(ax, title=title, x=f"±{top:.2f}", y="")
    return plots.finish(figure), (
        "The worst perturbation of an image by the norm that bounds it (columns) and how the "
        "network was trained (rows); grey is no change, the largest change is written below."
    )


def show(ax, image: np.ndarray) -> None:
    """An image with values in [0, 1], without an axis."""
    squeezed = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    ax.imshow(np.clip(squeezed, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)


def spectra(result: Result):
    """Mean spectra of the worst perturbations."""
    pictures = result.series["pictures"]
    norms = list(next(iter(pictures.values())))
    figure, axes = plots.subplots(
        rows=len(pictures), columns=len(norms), width=7.5, height=2.1 * len(pictures)
    )
    for number, (row, (network, by)) in enumerate(zip(axes, pictures.items(), strict=True)):
        for ax, norm in zip(row, norms, strict=True):
            spectrum = np.asarray(by[norm]["spectrum"])
            top = spectrum.max()
            show(ax, spectrum / top)
            told = "trained plainly" if network == "plain" else f"against {network}"
            plots.describe(
                ax, title=norm if number == 0 else " ", x=f"white: {top:.2g}",
                y=told if norm == norms[0] else "",
            )  # fmt: skip
    return plots.finish(figure), (
        "Mean modulus of the Fourier coefficients of the worst perturbations, slow oscillations in "
        "the middle; by the norm that bounds the perturbation (columns) and training (rows)."
    )
