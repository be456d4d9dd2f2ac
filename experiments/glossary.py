"""The words of the report: what a reader must know who has not read the papers.

The report shows those that occur in it. A term that only one experiment uses need not stand here:
it goes into the field `words` of that experiment's `Result`.
"""

import dataclasses
import re
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Term:
    """A term and its meaning.

    Attributes:
      name: as the report writes it.
      meaning: one to three sentences.
      also: other words that stand for it, by which it is found in a text.
    """

    name: str
    meaning: str
    also: tuple[str, ...] = ()

    def occurs_in(self, text: str) -> bool:
        """Whether the text has the term as a word of its own ("Fourier-l1" is no "l1")."""
        words = "|".join(map(re.escape, (self.name, *self.also)))
        return bool(re.search(rf"(?<![\w-])(?:{words})(?!\w)", text, re.IGNORECASE))


GROUPS = {
    "What is measured": (
        Term(
            "robust radius",
            "How far the training examples may be perturbed, each in the worst way, before the "
            "first one changes its class. A linear classifier predicts the sign of ⟨w, x⟩; its "
            "radius is its margin. Below 0, an example is misclassified to begin with.",
            ("radius", "radii", "robust"),
        ),
        Term(
            "margin",
            "The smallest yᵢ⟨w, xᵢ⟩ of the training examples xᵢ with labels yᵢ = ±1, over the "
            "norm ‖w‖ of the weights. It is the robust radius against perturbations that are "
            "measured in the dual norm.",
            ("margins",),
        ),
        Term(
            "dual norm",
            "‖g‖* = max ⟨u, g⟩ over all u with ‖u‖ ≤ 1. The norms l1 and linf are dual to each "
            "other, so are Fourier-l1 and Fourier-linf; l2 is its own dual.",
        ),
        Term(
            "optimum",
            "The largest radius that any linear classifier has on these examples. It is computed "
            "apart from all training, by a solver that proves its answer.",
            ("optimal", "most robust", "best possible"),
        ),
        Term(
            "certificate",
            "A lower and an upper bound of the optimum that follow, by duality, from the weights "
            "and the gradient at hand. The certified gap is (upper − lower) / upper.",
            ("certified", "certified gap"),
        ),
        Term(
            "matched",
            "An optimizer is matched to a kind of perturbation if it is steepest descent in the "
            "dual of the norm that measures the perturbation. Theory says that it then comes to "
            "the most robust classifier, in the limit. Every other optimizer is mismatched.",
            ("mismatched",),
        ),
        Term(
            "dimensions per example",
            "d/n: the number of features over the number of training examples.",
            ("d/n",),
        ),
    ),
    "Sizes of a perturbation δ": (
        Term("l1", "Σⱼ|δⱼ|, the sum of all changes; one feature may take all of it."),
        Term("l2", "√(Σⱼδⱼ²), the Euclidean length."),
        Term("linf", "maxⱼ|δⱼ|: every feature may change by as much."),
        Term(
            "Fourier-l1",
            "Σₖ|(Fδ)ₖ|, the sum over all frequencies; one frequency may take all of it. F is the "
            "unitary discrete Fourier transform (divided by √d, so that lengths stay as they "
            "are), of images over both axes.",
        ),
        Term(
            "Fourier-linf",
            "maxₖ|(Fδ)ₖ|, F as in Fourier-l1: every frequency may change by as much.",
        ),
    ),
    "Optimizers, for a gradient g and a step η": (
        Term(
            "coordinate descent",
            "w ← w − η gⱼ eⱼ with the largest |gⱼ|: one weight moves. Steepest descent in l1, "
            "predicted to be most robust against linf.",
        ),
        Term(
            "gradient descent",
            "w ← w − η g. Steepest descent in l2, predicted to be most robust against l2.",
        ),
        Term(
            "sign descent",
            "w ← w − η ‖g‖₁ sign(g): all weights move by the same length. Steepest descent in "
            "linf, predicted to be most robust against l1.",
        ),
        Term(
            "Fourier coordinate descent",
            "w ← w − η × the part of g at its strongest frequency, over 2 unless that frequency "
            "is its own conjugate. Steepest descent in Fourier-l1, predicted to be most robust "
            "against Fourier-linf.",
            ("Fourier coordinate",),
        ),
        Term(
            "Fourier phase descent",
            "w ← w − η ‖Fg‖₁ F⁻¹(Fg / |Fg|): all frequencies move by the same length, each with "
            "the phase of g. Steepest descent in Fourier-linf, predicted to be most robust "
            "against Fourier-l1.",
            ("Fourier phase",),
        ),
        Term(
            "step 1/(B² L)",
            "L is the loss, the mean of exp(−yᵢ⟨w, xᵢ⟩), and B the largest dual norm of an "
            "example, in the norm of the descent: the steps grow as the loss falls.",
            ("1/(B² L)", "1/(B²L)"),
        ),
    ),
}


def used_in(text: str) -> dict[str, list[Term]]:
    """The terms that a text uses, and those that their meanings use in turn, by group."""
    found = set(_closure(text))
    chosen = {group: [t for t in terms if t in found] for group, terms in GROUPS.items()}
    return {group: terms for group, terms in chosen.items() if terms}


def _closure(text: str) -> Iterator[Term]:
    """The terms of a text and of the meanings of those terms, each once."""
    left, texts = [term for terms in GROUPS.values() for term in terms], [text]
    while texts:
        here = texts.pop()
        for term in [t for t in left if t.occurs_in(here)]:
            left.remove(term)
            texts.append(term.meaning)
            yield term
