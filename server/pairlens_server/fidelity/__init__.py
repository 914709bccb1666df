"""How faithful a saliency map is: changed copies of a picture, and what their scores say."""
