"""The style sheet of the playground's page, and its buttons for files."""

from typing import Any

import ipywidgets as widgets
import traitlets
from ipywidgets.widgets.trait_types import TypedTuple


class Upload(widgets.FileUpload):
    """A button for a file, with the name "description (kinds)".

    The page adds the length of the value, in brackets, to the name of such a button: "A file (0)".
    This one sends the kinds of file instead of the number. It sends no files, because the page has
    them. It has no icon, because the icon's code would be the first letter of the name.
    """

    kinds = ""
    value = TypedTuple(traitlets.Dict()).tag(
        sync=True,
        echo_update=False,
        from_json=widgets.FileUpload.value.metadata["from_json"],
        to_json=lambda _, button: {"length": button.kinds},
    )

    def __init__(self, kinds: str, **settings: Any) -> None:
        """Make a button.

        Args:
            kinds: The kinds of file, as the reader sees them.
            **settings: Other arguments of FileUpload.
        """
        self.kinds = kinds
        super().__init__(icon="", layout={"width": "auto"}, **settings)


STYLE = """<style>
.widget-html-content { line-height: 1.4 !important; }
.widget-dropdown select { min-width: 0; text-overflow: ellipsis; }
.widget-toggle-buttons { flex-wrap: wrap; }
.jp-Cell, .jp-OutputArea-output { min-width: 0; }
@media (max-width: 600px) {
  .jp-OutputPrompt, .jp-InputPrompt { display: none; }
  .jp-Cell.jp-Notebook-cell { padding-left: 2px; padding-right: 2px; }
}
</style>"""
