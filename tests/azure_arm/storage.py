"""Microsoft.Storage's accounts, as the image job of the operator creates one to upload its disk.

Source: learn.microsoft.com/rest/api/storagerp/storage-accounts, create and get-properties with their examples
(azure-rest-api-specs, specification/storage), and "Naming rules and restrictions for Azure resources".
"""

from __future__ import annotations

import re
from typing import Any

from .errors import ArmError

NAME = re.compile(r"[a-z0-9]{3,24}")


def complete(account: dict[str, Any]) -> None:
    """Validate the write of an account and complete it."""
    name = account["name"]
    if not NAME.fullmatch(name):
        raise ArmError(
            400,
            "AccountNameInvalid",
            f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in "
            "length and use numbers and lower-case letters only.",
        )
    for field in ("sku", "kind"):
        if not account.get(field):
            raise ArmError(400, "MissingRequiredParameter", f"Required parameter '{field}' is missing (null).")
    sku = account["sku"]
    sku["tier"] = sku["name"].partition("_")[0]
    account["properties"]["primaryEndpoints"] = {"blob": f"https://{name}.blob.core.windows.net/"}
