"""TensorFlow Serving's wire contract: messages, services, tensors and status codes.

`messages` and `services` import without TensorFlow and without NumPy; `tensors` adds NumPy.
"""
