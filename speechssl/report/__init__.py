"""Figures and the HTML report of a run: builders of sections, and `write_report` that makes one page of them."""

from speechssl.report.audit import audit_sections, write_audit_page
from speechssl.report.codes import codes_section
from speechssl.report.curves import curves_section, read_series
from speechssl.report.data import data_section
from speechssl.report.embeddings import embeddings_section
from speechssl.report.page import Highlight, Section, details, key_values, note, paragraph, section, table, write_report
from speechssl.report.probes import layers_section, probe_section
from speechssl.report.spectrogram import spectrogram_section
from speechssl.report.word_errors import wer_section

__all__ = [
    "Highlight",
    "Section",
    "audit_sections",
    "codes_section",
    "curves_section",
    "data_section",
    "details",
    "embeddings_section",
    "key_values",
    "layers_section",
    "note",
    "paragraph",
    "probe_section",
    "read_series",
    "section",
    "spectrogram_section",
    "table",
    "wer_section",
    "write_audit_page",
    "write_report",
]
