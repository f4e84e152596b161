"""The checker behind every annotation in the tests.

An int is accepted where a float is asked for, as PEP 484 has it and every type checker reads it.
"""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
