"""Where outside does it matter? Nodes outside have other values at one kind of site of a layer at a time."""

from dataclasses import dataclass, replace

from thinwire.sites import Site
from thinwire.tasks import loss_of
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.outside import Donor, margins_by_group, other_pair, same_prompt
from thinwire.verify.thresholds import EXCHANGED_AUC, EXCHANGED_LOSS

PAIRS = 32
OWN = (
    "The nodes outside the circuit at one kind of site of one layer have the values that they have in the whole model "
    "on the same prompt; all others outside are at their means. The log-odds are calibrated as for the circuit alone. "
    "The value is that of the site where the loss is largest: true values that make a circuit worse say that what it "
    "computes is not what the model computes."
)
OTHER = (
    "The nodes outside the circuit at one kind of site of one layer have their values in a prompt of another pair; all "
    "others outside are at their means. The log-odds are calibrated as for the circuit alone. The value is that of the "
    "site where the loss is largest: there the nodes outside change the answer most."
)


@dataclass(frozen=True)
class Groups:
    """One kind of values for the nodes outside at one site at a time."""

    name: str
    title: str
    meaning: str
    judged: bool = True

    def measure(self, inputs: CheckInput, donor: Donor) -> list[Measurement]:
        """Calibrated loss and accuracy, and AUC, at the site where the loss is largest; and a curve over the sites."""
        batch, seed = inputs.first(PAIRS), inputs.config.seed
        sites = [site for site, mask in inputs.circuit.keep.items() if not mask.all()]
        each = dict(
            zip(sites, margins_by_group(inputs, donor, batch, [frozenset({site}) for site in sites]), strict=True)
        )
        losses = {site: loss_of(inputs.calibration.apply(own)).item() for site, own in each.items()}
        worst: Site = max(losses, key=losses.__getitem__)
        budget = f"the worst of {len(sites)} sites: {worst}"
        condition = Condition(self.name, self.title, self.name, len(batch), budget=budget)
        margins = inputs.calibration.apply(each[worst])
        loss, area = mean_loss(margins, condition, self.meaning, seed), auc(each[worst], condition, seed)
        if self.judged:
            loss, area = loss.held_against(EXCHANGED_LOSS), area.held_against(EXCHANGED_AUC)
        curve = Curve.named("site", {str(site): found for site, found in losses.items()})
        return [replace(loss, curve=curve), area, mean_accuracy(margins, condition)]


@check("own_values", order=23)
def own_values(inputs: CheckInput) -> list[Measurement]:
    """Nodes outside at the values of the whole model on the same prompt, at one site at a time."""
    return Groups("own_values", "own values outside, site by site", OWN).measure(inputs, same_prompt)


@check("exchange_by_site", order=24, thorough=True)
def exchange_by_site(inputs: CheckInput) -> list[Measurement]:
    """Nodes outside at their values in a prompt of another pair, at one site at a time: not judged, it says where."""
    title = "other pair's values outside, site by site"
    return Groups("exchange_by_site", title, OTHER, judged=False).measure(inputs, other_pair)
