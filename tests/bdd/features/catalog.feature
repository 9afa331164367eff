Feature: Catalog
  Models are known by a name and a digest; what is retired takes no new task.

  Background:
    Given the workstation "shared"

  Scenario: A model is registered, found, and forgotten
    When somebody sends POST "/v1/catalog/models"
      """
      {"id": "poet", "digest": "sha256:1111111111111111111111111111111111111111111111111111111111111111",
       "source_url": "mock:both"}
      """
    Then the answer is 201
    And the answer says
      | id    | poet   |
      | state | Active |
    When somebody asks GET "/v1/catalog/models/poet"
    Then the answer is 200
    And the header "ETag" is kept as "tag"
    When somebody asks GET "/v1/catalog/models/poet" with the headers
      | If-None-Match | {tag} |
    Then the answer is 304
    When Ada submits "by name" for the reference "poet"
      | max_tokens | 2 |
    Then the answer is 202
    And "by name" ends with length after 2 tokens
    When somebody asks DELETE "/v1/catalog/models/poet"
    Then the answer is 204
    When somebody asks GET "/v1/catalog/models/poet"
    Then the answer is 404 INVALID_PARAMS

  Scenario: A retired model takes no new task; what was admitted goes on
    When somebody sends POST "/v1/catalog/models"
      """
      {"id": "old-poet", "digest": "sha256:2222222222222222222222222222222222222222222222222222222222222222",
       "source_url": "mock:narrow"}
      """
    Then the answer is 201
    Given Ada has submitted "admitted" to pool "narrow"
      | max_tokens | 40 |
    When somebody sends POST "/v1/catalog/models/old-poet/state"
      """
      {"state": "Retired"}
      """
    Then the answer is 202
    And the answer says
      | status | accepted |
    When Bob submits "too late" to pool "narrow"
    Then the answer is 400 MODEL_DEPRECATED
    And "admitted" ends with length after 40 tokens
    When somebody sends POST "/v1/catalog/models/old-poet/state"
      """
      {"state": "Active"}
      """
    Then the answer is 202
    When "too late" is sent again
    Then the answer is 202
    When somebody asks DELETE "/v1/catalog/models/old-poet"
    Then the answer is 204

  Scenario: Strict trust takes no model without a signature
    When somebody sends POST "/v1/catalog/models" with the header "X-Trust-Policy: strict"
      """
      {"id": "unsigned", "digest": "sha256:3333333333333333333333333333333333333333333333333333333333333333"}
      """
    Then the answer is 400 UNTRUSTED_ARTIFACT
    When somebody asks GET "/v1/catalog/models/unsigned"
    Then the answer is 404 INVALID_PARAMS
