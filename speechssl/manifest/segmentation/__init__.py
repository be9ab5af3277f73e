"""Long recordings into clips of bounded length, without copying audio.

`activity` hears where something is said, in blocks; `clips` makes clips of that; `journal` remembers finished
recordings; `segment` puts them together.
"""

from speechssl.manifest.segmentation.activity import Activity, find_activity
from speechssl.manifest.segmentation.segment import SegmentResult, segment_manifest
from speechssl.manifest.segmentation.settings import SegmentConfig

__all__ = ["Activity", "SegmentConfig", "SegmentResult", "find_activity", "segment_manifest"]
