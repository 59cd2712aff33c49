"""Data of other projects as sources of training, without packing.

`webdataset.open_webdataset` opens tars. Indexes record what the order of training needs to know.
"""
