"""SI-SDR of a noise suppressor that is run block by block and hands its state back to itself.

The model gets the magnitude spectrum of each block and the state, and returns a mask for the spectrum and the new
state.
The data holds `noisy` and `clean` recordings, [recordings, time]; neither is an input of the model.

    onnxshrink evaluate small.onnx --against model.onnx --data eval.npz \
        --metric 'docs/examples/noise_suppression.py:si_sdr_of_speech{unit=dB}'
"""

import numpy as np

from onnxshrink.metrics.waveform import si_sdr

BLOCK, HOP = 512, 128
SPECTRUM, STATE = "input_2", "input_3"
EDGE = 2048  # samples at both ends that fewer blocks than usual overlap


def si_sdr_of_speech(run, arrays):
    """One SI-SDR in dB per recording."""
    return [
        float(si_sdr(_enhanced(run, noisy.astype(np.float64))[EDGE:-EDGE], clean[EDGE:-EDGE].astype(np.float64)))
        for noisy, clean in zip(arrays["noisy"], arrays["clean"], strict=True)
    ]


def _enhanced(run, noisy):
    state = np.zeros((1, 2, 128, 2), np.float32)
    speech = np.zeros_like(noisy)
    for start in range(0, len(noisy) - BLOCK, HOP):
        spectrum = np.fft.rfft(noisy[start : start + BLOCK])
        outputs = run({SPECTRUM: np.abs(spectrum)[None, None], STATE: state})
        mask, state = outputs.values()
        speech[start : start + BLOCK] += np.fft.irfft(spectrum * mask[0, 0]) * (HOP / BLOCK)
    return speech
