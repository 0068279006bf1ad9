"""Shifts of whole services: found by the verdict on the service, and by those on its endpoints.

``python -m benchmarks.service_shifts`` prints the figures of two samples:

- *simulated*: many services. The medians of their endpoints' evaluation windows are drawn directly, without requests
  and without the detector of the endpoints.
- *replayed* (``--replayed N``): fewer services, with requests, the whole detector, and the flags of the endpoints. The
  same traffic is replayed a second time with the common part taken out: of every duration, the deviation of the other
  endpoints of the service at that time, as much of it as this endpoint shared in the past.

Services have eight endpoints unless stated otherwise. Each endpoint has load of its own, and all share another load
whose standard deviation is 0, 10 or 25 %. After eight days, six are evaluated. In these, healthy services have no
incidents; others have one a day (replayed: three) that concerns all endpoints, or three a day that concern one of them.
"""
