"""A login server that has sign-ins approved, and a page that enrols phones."""

import datetime
import hashlib
import hmac

from countersign.v1 import approvals_pb2, approvals_pb2_grpc, enrolments_pb2, enrolments_pb2_grpc, signed_pb2
from countersign_client import call, stream

KIND = approvals_pb2.OutcomeKind.Name


class LoginServer:
    def __init__(self, channel, api_key, application):
        self.api = approvals_pb2_grpc.ApprovalsStub(channel)
        self.authorization = [("authorization", f"Bearer {api_key}")]
        self.application = application

    def request(self, account, session, **options):
        """Asks, and gives the updates as they come: issued, progress, outcome."""
        return stream(self.api.RequestApproval, self._request(account, session, **options), self.authorization)

    def open(self, account, session, **options):
        return call(self.api.OpenApproval, self._request(account, session, **options), self.authorization)

    def watch(self, approval_id, after_sequence=0):
        request = approvals_pb2.WatchApprovalRequest(approval_id=approval_id, after_sequence=after_sequence)
        return stream(self.api.WatchApproval, request, self.authorization)

    def wait(self, approval_id, max_wait_s=20):
        request = approvals_pb2.WaitApprovalRequest(approval_id=approval_id)
        request.max_wait.FromTimedelta(datetime.timedelta(seconds=max_wait_s))
        return call(self.api.WaitApproval, request, self.authorization, timeout_s=max_wait_s + 10)

    def get(self, approval_id):
        return call(self.api.GetApproval, approvals_pb2.GetApprovalRequest(approval_id=approval_id), self.authorization)

    def cancel(self, approval_id):
        request = approvals_pb2.CancelApprovalRequest(approval_id=approval_id)
        return call(self.api.CancelApproval, request, self.authorization)

    def _request(self, account, session, *, source_ip="192.0.2.7", idempotency_key="", lifetime_s=None, realm=""):
        request = approvals_pb2.RequestApprovalRequest(
            account=approvals_pb2.AccountName(realm=realm, name=account),
            application=self.application,
            context=signed_pb2.Context(source_ip=source_ip),
            session_binding=session_binding(session),
            idempotency_key=idempotency_key,
        )
        if lifetime_s is not None:
            request.lifetime.FromTimedelta(datetime.timedelta(seconds=lifetime_s))
        return request


def session_binding(session):
    """An opaque value of a browser session: its id would be as good, but whoever reads it could take it over."""
    return hashlib.sha256(b"login server: " + session.encode()).digest()


def lets_in(outcome, session, now=None):
    """Whether somebody may come in: an approval, of this very session, and not an old one."""
    now = now or datetime.datetime.now(datetime.UTC)
    return (
        outcome.kind == approvals_pb2.OUTCOME_KIND_APPROVED
        and hmac.compare_digest(outcome.session_binding, session_binding(session))
        and now < outcome.valid_until.ToDatetime(datetime.UTC)
    )


class EnrollingPage:
    def __init__(self, channel, api_key):
        self.api = enrolments_pb2_grpc.EnrolmentsStub(channel)
        self.authorization = [("authorization", f"Bearer {api_key}")]

    def begin(self, account, realm=""):
        request = enrolments_pb2.BeginEnrolmentRequest(account=approvals_pb2.AccountName(realm=realm, name=account))
        return call(self.api.BeginEnrolment, request, self.authorization)

    def watch(self, enrolment_id, after_sequence=0):
        """The steps as they come: begun, code refused, trial, active or ended."""
        request = enrolments_pb2.WatchEnrolmentRequest(enrolment_id=enrolment_id, after_sequence=after_sequence)
        return stream(self.api.WatchEnrolment, request, self.authorization)

    def cancel(self, enrolment_id):
        request = enrolments_pb2.CancelEnrolmentRequest(enrolment_id=enrolment_id)
        return call(self.api.CancelEnrolment, request, self.authorization)

    def authenticators(self, account):
        request = enrolments_pb2.ListAuthenticatorsRequest(account=approvals_pb2.AccountName(name=account))
        return list(call(self.api.ListAuthenticators, request, self.authorization).authenticators)

    def revoke(self, account, authenticator_id):
        request = enrolments_pb2.RevokeAuthenticatorRequest(
            account=approvals_pb2.AccountName(name=account), authenticator_id=authenticator_id
        )
        return call(self.api.RevokeAuthenticator, request, self.authorization)
