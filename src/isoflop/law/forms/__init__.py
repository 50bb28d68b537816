"""The functional forms of a scaling law. A new form is a file beside these and a line in FORMS."""

from isoflop.law.forms.compute import ComputeForm
from isoflop.law.forms.farseer import FarseerForm
from isoflop.law.forms.form import Array, Form, Named
from isoflop.law.forms.joint import JointForm

COMPUTE_FORMS = (
    ComputeForm("compute", floor=True, ceiling=False),
    ComputeForm("power", floor=False, ceiling=False),
    ComputeForm("bent", floor=False, ceiling=True),
    ComputeForm("sigmoid", floor=True, ceiling=True),
)
JOINT_FORMS: tuple[Form, ...] = (
    JointForm("chinchilla"),
    JointForm("overtraining", tied=True),
    JointForm("coupled", coupling="free"),
    JointForm("kaplan", coupling="beta", floor=False),
    FarseerForm(),
)
FORMS: dict[str, Form] = {form.name: form for form in (*COMPUTE_FORMS, *JOINT_FORMS)}

__all__ = ["COMPUTE_FORMS", "FORMS", "JOINT_FORMS", "Array", "ComputeForm", "FarseerForm", "Form", "JointForm", "Named"]
