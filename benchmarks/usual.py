"""The digits example with the usual schemes alone: what a hand-written script is compared with."""

from dataclasses import replace

from examples.digits.spec import DIGITS

USUAL = replace(DIGITS, name="digits_usual", schemes="usual", search=None, finetuning=None)
