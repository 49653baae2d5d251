# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The tags of what this collection created on Azure (private to this collection)."""

from __future__ import annotations

# Azure does not allow the slash of the tags on AWS.
TAG_PREFIX = "osc.peerpods."
MANAGED_TAG = f"{TAG_PREFIX}managed"
# The ID of a cluster that uses the resource follows.
REFERENCE_TAG = f"{TAG_PREFIX}cluster."
# Before the name of a cluster that gives up the resource.
LEAVING = "leaving:"
