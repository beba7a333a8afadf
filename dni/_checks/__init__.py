"""Every check of an argument, and the message it raises.

A message names who speaks, the rule, what was expected, what came, and the way out.
Checks run before anything is changed: an error leaves contexts, gradients and
statistics as they were. Messages are written for the first reader of a traceback, so
each check is one function with one sentence, and no other file formats an error.
"""

from dni._checks.contexts import *
from dni._checks.decoupling import *
from dni._checks.interfaces import *
from dni._checks.launch import *
from dni._checks.messages import *
from dni._checks.parts import *
from dni._checks.recurrent import *
from dni._checks.replay import *
from dni._checks.stages import *
from dni._checks.synthesizers import *
from dni._checks.wire import *
from dni._checks.wrapper import *
