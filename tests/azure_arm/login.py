"""Authentication: the login authority, the metadata endpoints, managed identity, and tokens.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from urllib.parse import parse_qsl

from .errors import ArmError
from .wire import Answer, Request, answered

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Login:
    """Issues and validates tokens."""

    def __init__(self, endpoint_url: str):
        self.endpoint_url = endpoint_url
        self.tenant_id = "3d2f6f2b-6a3c-4c5f-9c77-0d7a54d3e1aa"
        self.client_id = "b1a5c2de-8d2c-4b21-9a57-5e2f0cf9d3b0"
        # Another one than that of every other emulator, whose `az login` has it in the list of processes.
        self.client_secret = f"8Q~{uuid.uuid4()}"
        # The assertion (a service account's token) that is federated with client_id.
        self.federated_token = "emulated.service-account.token"
        # The lifetime of new tokens, in seconds.
        self.token_lifetime = 3600
        self._expiry_of: dict[str, float] = {}
        self._audience_of: dict[str, str] = {}
        self._application_of: dict[str, str] = {}

    def answer(self, request: Request) -> Answer | None:
        """The response to a request for authentication, None for all other requests."""
        path = request.path.rstrip("/")
        if path == "/metadata/endpoints":
            return answered(self._endpoints(request.query.get("api-version", "")))
        if path == "/metadata/identity/oauth2/token":
            return self._managed_identity(request)
        if path == "/common/discovery/instance":
            return answered(
                {
                    "tenant_discovery_endpoint": f"{self.endpoint_url}/{self.tenant_id}"
                    "/v2.0/.well-known/openid-configuration",
                    "metadata": [],
                }
            )
        match = re.fullmatch(r"/([^/]+)/(?:(oauth2/v2.0/token)|v2.0/\.well-known/openid-configuration)", path)
        if match is None:
            return None
        if match[1] not in (self.tenant_id, "organizations", "common"):
            return _refused(
                "invalid_tenant",
                f"AADSTS90002: Tenant '{match[1]}' not found. Check to make sure you have the correct tenant ID.",
            )
        return self._token(request) if match[2] else answered(self._openid(match[1]))

    def federated_credentials(self, client_id: str) -> list[dict] | None:
        """The properties of the federated credentials of a managed identity; None if no such identity exists."""
        raise NotImplementedError

    def require_token(self, request: Request) -> str:
        """The client ID of whom the token was issued to. Raises ArmError 401 if the request has no valid token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._unauthorized(
                "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."
            )
        if token not in self._expiry_of:
            raise self._unauthorized("InvalidAuthenticationToken", "The access token is invalid.")
        if self._expiry_of[token] <= time.time():
            raise self._unauthorized(
                "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time."
            )
        audience = self._audience_of[token]
        if audience.rstrip("/") != self.endpoint_url:
            raise self._unauthorized(
                "InvalidAuthenticationTokenAudience",
                "The access token has been obtained for wrong audience or resource "
                f"'{audience}'. It should exactly match with one of the allowed audiences "
                f"'{self.endpoint_url}','{self.endpoint_url}/'.",
            )
        return self._application_of[token]

    def expire_tokens(self) -> None:
        """Revoke all tokens."""
        self._expiry_of = dict.fromkeys(self._expiry_of, 0)

    def _token(self, request: Request) -> Answer:
        form = dict(parse_qsl(request.content.decode()))
        if form.get("grant_type") != "client_credentials":
            return _refused(
                "unsupported_grant_type",
                f"AADSTS70003: The app requested an unsupported grant type '{form.get('grant_type')}'.",
            )
        client_id = form.get("client_id", "")
        credentials = self.federated_credentials(client_id)
        if client_id != self.client_id and credentials is None:
            return _refused(
                "unauthorized_client",
                "AADSTS700016: Application with identifier "
                f"'{client_id}' was not found in the directory '{self.tenant_id}'.",
            )
        if form.get("client_assertion_type") == ASSERTION_TYPE:
            assertion = form.get("client_assertion", "")
            if credentials is not None:
                if refused := _unmatched(assertion, credentials):
                    return refused
            elif assertion != self.federated_token:
                return _refused(
                    "invalid_client",
                    "AADSTS700213: No matching federated identity record found for presented assertion subject.",
                    401,
                )
        elif client_id != self.client_id or form.get("client_secret") != self.client_secret:
            return _refused(
                "invalid_client",
                "AADSTS7000215: Invalid client secret provided. Ensure the "
                "secret being sent in the request is the client secret value, not the client "
                f"secret ID, for a secret added to app '{self.client_id}'.",
                401,
            )
        scope = form.get("scope", "").split()
        audience = scope[0].removesuffix(".default").removesuffix("/") if scope else ""
        return answered(
            {
                "token_type": "Bearer",
                "expires_in": self.token_lifetime,
                "ext_expires_in": self.token_lifetime,
                "access_token": self._new_token(audience, client_id),
            }
        )

    def _managed_identity(self, request: Request) -> Answer:
        """https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token"""
        if request.headers.get("Metadata", "").lower() != "true":
            return _refused("invalid_request", "Required metadata header not specified")
        if request.query.get("client_id", self.client_id) != self.client_id:
            return _refused("invalid_request", "Identity not found")
        resource = request.query.get("resource", "")
        return answered(
            {
                "access_token": self._new_token(resource, self.client_id),
                "client_id": self.client_id,
                "expires_in": str(self.token_lifetime),
                "expires_on": str(int(time.time()) + self.token_lifetime),
                "resource": resource,
                "token_type": "Bearer",
            }
        )

    def _new_token(self, audience: str, client_id: str) -> str:
        now = int(time.time())
        claims = {
            "aud": audience,
            "iss": f"{self.endpoint_url}/{self.tenant_id}/",
            "iat": now,
            "nbf": now,
            "exp": now + self.token_lifetime,
            "appid": client_id,
            "oid": client_id,
            "tid": self.tenant_id,
            "uti": uuid.uuid4().hex,
        }
        token = ".".join(
            base64.urlsafe_b64encode(part).rstrip(b"=").decode()
            for part in (
                json.dumps({"typ": "JWT", "alg": "RS256"}).encode(),
                json.dumps(claims).encode(),
                b"not signed",
            )
        )
        self._expiry_of[token] = now + self.token_lifetime
        self._audience_of[token] = audience
        self._application_of[token] = client_id
        return token

    def _endpoints(self, api_version: str) -> dict | list:
        """The metadata of the cloud: one cloud in the oldest version, a list of clouds in newer versions."""
        authentication = {
            "loginEndpoint": self.endpoint_url,
            "audiences": [self.endpoint_url],
            "tenant": "common",
            "identityProvider": "AAD",
        }
        graph = f"{self.endpoint_url}/graph"
        if api_version < "2018":
            return {
                "galleryEndpoint": self.endpoint_url,
                "graphEndpoint": graph,
                "portalEndpoint": self.endpoint_url,
                "authentication": authentication,
            }
        cloud = {
            "name": "Emulated",
            "portal": self.endpoint_url,
            "resourceManager": self.endpoint_url,
            "authentication": authentication,
            "graph": graph,
            "graphAudience": graph,
            "gallery": self.endpoint_url,
            "batch": self.endpoint_url,
            "sqlManagement": self.endpoint_url,
            "vmImageAliasDoc": f"{self.endpoint_url}/aliases.json",
            "media": self.endpoint_url,
            "microsoftGraphResourceId": graph,
            "suffixes": {"storage": "core.emulated", "keyVaultDns": "vault.emulated"},
        }
        return cloud if api_version >= "2022-09-01" else [cloud]

    def _openid(self, tenant: str) -> dict:
        base = f"{self.endpoint_url}/{tenant}"
        return {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "issuer": f"{self.endpoint_url}/{self.tenant_id}/v2.0",
            "tenant_region_scope": None,
        }

    def _unauthorized(self, code: str, message: str) -> ArmError:
        challenge = (
            f'Bearer authorization_uri="{self.endpoint_url}/{self.tenant_id}", '
            f'error="invalid_token", error_description="{message}"'
        )
        return ArmError(401, code, message, headers={"WWW-Authenticate": challenge})


def _unmatched(assertion: str, credentials: list[dict]) -> Answer | None:
    """The answer to an assertion that no federated credential fits; None if one does. Issuer, subject and audience must
    all be equal (learn.microsoft.com/entra/workload-id/workload-identity-federation).

    The texts are in Azure/azure-workload-identity#1200, which has both the one about the issuer and that about the
    subject.
    """
    payload = assertion.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    (audience,) = claims["aud"]
    fitting = credentials
    for code, name, presented, is_accepted in (
        (700211, "issuer", claims["iss"], lambda credential: credential["issuer"] == claims["iss"]),
        (700213, "subject", claims["sub"], lambda credential: credential["subject"] == claims["sub"]),
        (700212, "audience", audience, lambda credential: audience in credential["audiences"]),
    ):
        fitting = list(filter(is_accepted, fitting))
        if not fitting:
            return _refused(
                "invalid_client",
                f"AADSTS{code}: No matching federated identity record found for presented assertion {name} "
                f"'{presented}'. Check your federated identity credential Subject, Audience and Issuer against the "
                "presented assertion.",
                401,
            )
    return None


def _refused(error: str, description: str, status: int = 400) -> Answer:
    codes = [int(code) for code in re.findall(r"AADSTS(\d+)", description)]
    return answered(
        {
            "error": error,
            "error_description": description,
            "error_codes": codes,
            "correlation_id": str(uuid.uuid4()),
        },
        status,
    )
