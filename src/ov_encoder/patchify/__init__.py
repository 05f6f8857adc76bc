"""From a source to the patches worth encoding: sampling, camera motion, saliency, budget, layouts.

The room and its main function share a name (`ov.patchify(source)` and `ov_encoder.patchify.batch`), so the
module itself is callable. Nothing here imports torch.
"""

import importlib
import inspect
import sys
from types import ModuleType


class _CallableRoom(ModuleType):
    def __call__(self, *args, **kwargs):
        from ov_encoder.patchify.api import patchify

        return patchify(*args, **kwargs)

    @property
    def __signature__(self):  # what help() and IDEs show for ov.patchify
        from ov_encoder.patchify.api import patchify

        return inspect.signature(patchify)

    def __reduce__(self):  # so that ov.patchify can be sent to worker processes
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _CallableRoom
