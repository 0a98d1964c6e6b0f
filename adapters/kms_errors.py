"""What boto3 raises, as one line: what is wrong, AWS's own code, the fix.

AWS's messages are never quoted: that of a wrong signature lists the headers that were signed, the
session token among them, and that of a credential process is whatever the process wrote.
"""

import re

from botocore import exceptions

ATTEMPTS = 3
"""Of one request, the first included."""

_CODE = re.compile(r"[A-Za-z0-9.]{1,80}")
_ENABLE = (
    "enable it with `aws kms enable-key`, after `aws kms cancel-key-deletion` where its deletion "
    "is scheduled"
)
_WHICH = "give the id, the ARN or the alias (alias/…) of a key of this account and region"
_KIND = "use a key with KeySpec ECC_SECG_P256K1 and KeyUsage SIGN_VERIFY"

# Codes of the KMS API reference (Sign, GetPublicKey, Common Errors), what they say, the fix.
_ANSWERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("NotFoundException",), "there is no such key in {region}", _WHICH),
    (("InvalidArnException", "ValidationException"), "AWS takes that for no key's name", _WHICH),
    (
        ("AccessDeniedException", "AccessDenied"),
        "IAM does not allow {action} on the key",
        "allow kms:GetPublicKey and kms:Sign in the key's policy, or in that of the role",
    ),
    (("DisabledException",), "the key is disabled", _ENABLE),
    (
        ("KMSInvalidStateException",),
        "the key is pending deletion, or in another state without use",
        _ENABLE,
    ),
    (
        ("InvalidKeyUsageException", "UnsupportedOperationException"),
        "the key is not made for signing",
        _KIND,
    ),
    (
        ("ThrottlingException", "Throttling", "LimitExceededException", "RequestLimitExceeded"),
        f"AWS throttles our requests, tried {ATTEMPTS} times",
        "wait, or ask AWS for a higher KMS quota of ECC requests per second",
    ),
    (
        (
            *("KeyUnavailableException", "KMSInternalException", "DependencyTimeoutException"),
            *("InternalFailure", "ServiceUnavailable", "ServiceUnavailableException"),
        ),
        f"AWS KMS itself has a failure, tried {ATTEMPTS} times",
        "wait, and see https://health.aws.amazon.com",
    ),
    (
        ("ExpiredTokenException", "ExpiredToken", "RequestExpired"),
        "the AWS credentials have expired",
        "renew them: AWS_SESSION_TOKEN and its keys, the SSO session, or the role",
    ),
    (
        (
            *("UnrecognizedClientException", "InvalidClientTokenId", "IncompleteSignature"),
            *("InvalidSignatureException", "SignatureDoesNotMatch", "MissingAuthenticationToken"),
        ),
        "AWS does not accept the credentials",
        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and this machine's clock",
    ),
)
_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.UnknownCredentialError,
)
_NO_SESSION = (
    *(exceptions.SSOError, exceptions.LoginError),
    *(exceptions.TokenRetrievalError, exceptions.NoAuthTokenError),
)
_NO_NETWORK = (exceptions.HTTPClientError, exceptions.ConnectionError)
_NO_FILES = (exceptions.ProfileNotFound, exceptions.ConfigParseError, exceptions.ConfigNotFound)


def settings_problem(error: Exception) -> str:
    """Of what was raised before anything was sent."""
    if isinstance(error, exceptions.NoRegionError):
        return "AWS's region is not known (NoRegionError): set AWS_REGION, or give the key's ARN"
    if known := _environment_problem(error):
        return known
    name = type(error).__name__
    return f"AWS's settings are unusable ({name}): check AWS_REGION and AWS_ENDPOINT_URL_KMS"


def call_problem(error: Exception, *, action: str, region: str, host: str) -> str:
    """Of what a request raised; `action` is IAM's name of it."""
    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code"))
        return _answer_problem(code, action, region)
    if known := _environment_problem(error):
        return known
    name = type(error).__name__
    if isinstance(error, _NO_NETWORK):
        check = "check the network, AWS_REGION and AWS_ENDPOINT_URL_KMS"
        return f"AWS KMS cannot be reached at {host} ({name}), tried {ATTEMPTS} times: {check}"
    check = "check AWS_ENDPOINT_URL_KMS and proxies"
    return f"the answer of {host} is not one of AWS KMS ({name}): {check}"


def slow_problem(seconds: float) -> str:
    """Of an answer that does not come in time."""
    return (
        f"AWS KMS took longer than {seconds:g} s (SIGNER_TIMEOUT): wait, check the network, and "
        "see https://health.aws.amazon.com"
    )


def _answer_problem(code: str, action: str, region: str) -> str:
    if not _CODE.fullmatch(code):
        code = "without a code"
    for codes, what, fix in _ANSWERS:
        if code in codes:
            return f"{what.format(action=action, region=region)} ({code}): {fix}"
    return f"AWS KMS refuses {action} ({code}): see this code in the KMS API reference"


def _environment_problem(error: Exception) -> str | None:
    name = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return (
            f"AWS credentials are not found ({name}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine or pod a role"
        )
    if isinstance(error, _NO_SESSION):
        return f"the AWS login has ended ({name}): log in again, `aws sso login`"
    if isinstance(error, _NO_FILES):
        return f"AWS's own files are unusable ({name}): check AWS_PROFILE and AWS_CONFIG_FILE"
    return None
