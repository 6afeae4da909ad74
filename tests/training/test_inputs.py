import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import InputError
from gluonface.model_zoo import model_facts
from gluonface.training.inputs import image_preparer, source_weights


def test_images_are_normalised_as_the_facts_say_and_targets_stay():
    facts = model_facts("heatmap_mobilenetv2_1.0_s_jd106")
    images = np.zeros((2, 4, 6, 3), np.uint8)
    images[..., 0] = 255
    target = np.arange(6, dtype=np.float32).reshape(2, 3)
    x, kept = image_preparer(facts)((images, target), mx.cpu())
    assert x.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(
        x.asnumpy()[0, :, 0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-5
    )
    np.testing.assert_array_equal(kept.asnumpy(), target)


def test_source_weights_are_names_and_numbers():
    assert source_weights(["helen=2", "a=b=.5"]) == {"helen": 2.0, "a=b": 0.5}
    for word in ("helen", "=2", "helen=much"):
        with pytest.raises(InputError, match=f"expected NAME=WEIGHT, got '{word}'"):
            source_weights([word])
