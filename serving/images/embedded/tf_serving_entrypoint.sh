#!/bin/sh
# What TensorFlow Serving's image does with MODEL_NAME and MODEL_BASE_PATH; exec, so that the server gets the signals.
exec /usr/bin/tensorflow_model_server --port=8500 --rest_api_port=8501 \
  --model_name="$MODEL_NAME" --model_base_path="$MODEL_BASE_PATH/$MODEL_NAME" "$@"
