"""Pure: the checks of ``pyflanneld doctor``, from facts to findings."""
