@slow
Feature: Drain and reload
  An operator empties a pool, or gives it another model; what goes wrong is undone, still serving.

  Background:
    Given the workstation "varied"

  Scenario: A pool that is drained ends what runs and takes nothing more, until it is reloaded
    Given Ada has submitted "running" to pool "spare"
      | max_tokens | 60 |
    Then "running" becomes running
    When somebody sends POST "/v1/pools/spare/drain"
      """
      {"deadline_ms": 20000}
      """
    Then the answer is 202
    And pool "spare" becomes draining
    When Bob submits "late" to pool "spare"
    Then the answer is 503 POOL_UNREADY
    And "running" ends with length after 60 tokens
    When somebody sends POST "/v1/pools/spare/reload"
      """
      {"new_model_ref": "mock:spare"}
      """
    Then the answer is 202
    And pool "spare" serves the model "mock:spare"
    When "late" is sent again
    Then the answer is 202

  Scenario: Another model, and back
    When somebody sends POST "/v1/pools/spare/reload"
      """
      {"new_model_ref": "mock:other"}
      """
    Then the answer is 202
    And pool "spare" serves the model "mock:other"
    When Ada submits "new" for the model "other"
      | max_tokens | 2 |
    Then the answer is 202
    And "new" ends with length after 2 tokens
    When Ada submits "old" for the model "spare"
    Then the answer is 503 POOL_UNAVAILABLE
    When somebody sends POST "/v1/pools/spare/reload"
      """
      {"new_model_ref": "mock:spare"}
      """
    Then pool "spare" serves the model "mock:spare"

  Scenario: A model that does not load is taken back, and the pool still serves
    When somebody sends POST "/v1/pools/spare/reload"
      """
      {"new_model_ref": "mock:spoiled"}
      """
    Then the answer is 202
    And pool "spare" tells what went wrong
    And pool "spare" serves the model "mock:spare"
    Given Ada has submitted "as before" to pool "spare"
      | max_tokens | 2 |
    Then "as before" ends with length after 2 tokens

  Scenario Outline: What there is not is neither drained nor reloaded
    When somebody sends POST "/v1/pools/nowhere/<verb>"
      """
      <body>
      """
    Then the answer is 404 INVALID_PARAMS

    Examples:
      | verb   | body                          |
      | drain  | {"deadline_ms": 1000}         |
      | reload | {"new_model_ref": "mock:any"} |
