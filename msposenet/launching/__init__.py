"""Starting, watching and restarting the processes of a training job on this machine or on several.

`supervisor` runs a `job` through one `agent` a host, which it reaches over a `link`; nothing here imports MXNet.
"""

from __future__ import annotations
