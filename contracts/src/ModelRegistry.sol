// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";

/// @title Which token stands for which model
/// @notice One model, one token, in both directions, written once.
/// @dev Reads never revert for an unknown key. The caller asks before it sends, and a read that
/// reverts could not be told from a node that failed.
contract ModelRegistry is AccessControl {
    struct Model {
        // One storage slot: token, registeredAt, active.
        address token;
        uint64 registeredAt;
        bool active;
        string performanceMetric;
        string mlflowRunId;
    }

    /// @notice May register models.
    bytes32 public constant REGISTRAR_ROLE = keccak256("REGISTRAR_ROLE");

    mapping(string modelId => Model) private _models;

    /// @notice The model of a token; empty when the token is not registered.
    mapping(address token => string modelId) public modelOf;

    /// @notice `token` stands for the model from now on.
    event ModelRegistered(
        string indexed modelId,
        address indexed token,
        string performanceMetric,
        string mlflowRunId
    );

    /// @notice The model was withdrawn from use, or is in use again.
    event ModelActiveSet(string indexed modelId, bool active);

    /// Nobody could grant roles, ever.
    error ZeroAdmin();

    /// An argument is empty; `field` is its name.
    error EmptyField(string field);

    /// There is no contract at `token`: a deployment that failed, or another chain's address.
    error TokenHasNoCode(address token);

    /// The model has its token already; which one tells a repetition from a conflict.
    error ModelAlreadyRegistered(string modelId, address token);

    /// The token stands for another model already.
    error TokenAlreadyRegistered(address token, string modelId);

    /// The model is not registered.
    error ModelNotRegistered(string modelId);

    /// @param admin May grant roles and set models active. It gets no other role.
    constructor(address admin) {
        if (admin == address(0)) revert ZeroAdmin();
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Record that `token` stands for `modelId`. For REGISTRAR_ROLE.
    /// @dev The model is checked before the token: a repeated registration breaks both rules, and
    /// the caller needs to hear which token the model has.
    function registerModel(
        string calldata modelId,
        address token,
        string calldata performanceMetric,
        string calldata mlflowRunId
    ) external onlyRole(REGISTRAR_ROLE) {
        if (bytes(modelId).length == 0) revert EmptyField("modelId");
        if (bytes(performanceMetric).length == 0) revert EmptyField("performanceMetric");
        if (bytes(mlflowRunId).length == 0) revert EmptyField("mlflowRunId");
        if (token.code.length == 0) revert TokenHasNoCode(token);

        Model storage model = _models[modelId];
        if (model.token != address(0)) revert ModelAlreadyRegistered(modelId, model.token);
        if (bytes(modelOf[token]).length != 0) revert TokenAlreadyRegistered(token, modelOf[token]);

        model.token = token;
        model.registeredAt = uint64(block.timestamp);
        model.active = true;
        model.performanceMetric = performanceMetric;
        model.mlflowRunId = mlflowRunId;
        modelOf[token] = modelId;
        emit ModelRegistered(modelId, token, performanceMetric, mlflowRunId);
    }

    /// @notice Withdraw a model from use, or put it back. For DEFAULT_ADMIN_ROLE.
    /// @dev A withdrawn model stays registered: its id and its token are never free again.
    function setActive(string calldata modelId, bool active) external onlyRole(DEFAULT_ADMIN_ROLE) {
        if (!isRegistered(modelId)) revert ModelNotRegistered(modelId);
        _models[modelId].active = active;
        emit ModelActiveSet(modelId, active);
    }

    /// @notice Whether the model has a token.
    function isRegistered(string calldata modelId) public view returns (bool) {
        return _models[modelId].token != address(0);
    }

    /// @notice The token of a model; the zero address when it has none.
    function getToken(string calldata modelId) external view returns (address) {
        return _models[modelId].token;
    }

    /// @notice All that is recorded of a model; zeros and empty strings when it is not registered.
    function getModel(
        string calldata modelId
    )
        external
        view
        returns (
            address token,
            string memory performanceMetric,
            string memory mlflowRunId,
            uint64 registeredAt,
            bool active
        )
    {
        Model storage model = _models[modelId];
        return (
            model.token,
            model.performanceMetric,
            model.mlflowRunId,
            model.registeredAt,
            model.active
        );
    }
}
