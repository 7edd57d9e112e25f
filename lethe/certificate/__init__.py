"""Certificates: what may honestly be claimed about a finished run, signed, and checked offline by someone else.

    issue(folder, …) -> Bundle      `lethe certify RUN`: statement, evidence, commitments, log and page, signed with Ed25519
    check(folder, …) -> list[Check] `lethe verify CERT`: signature, canonical form, hashes, proofs, claims against evidence

A signature proves who made the statement, not that it is true; hence every claim carries one level
(`lethe.certificate.claims`) and what it does not state. No record content: records appear as keyed hashes whose key the
controller holds. No torch, except to open a run again (`lethe.work.verify`).
"""
