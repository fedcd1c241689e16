"""pyinfra runs this file of the current folder first. A project of your own that uses gpurack wants the same lines."""

from gpurack.guard import explain_a_missing_terminal, refuse_empty_inventories

refuse_empty_inventories()
explain_a_missing_terminal()
